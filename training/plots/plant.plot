# A seed, patience, and what grows.
cast: solo
lesson: [good things take time|you need patience to see things grow|a little care every day does great things]

<home> <oneday>, {grown} gave {hero.him} a tiny {plant.bare} seed. "[Take good care of it|It needs water and sun|It is small now, but wait and see]," said {grown}.
<here> {Hero.he} found a [tiny|small|little brown] seed {spot}. "What will it be?" {hero.he} wondered.
<home> {Hero.he} wanted to have a garden. <oneday>, {guide.first} gave {hero.him} a~ {plant.bare} seed.

{Hero} [dug|made] a small hole and put the seed in. {Hero.he} gave it water. "[Grow, little seed|Sleep well, little seed|Please grow fast]," {hero.he} said.
{Hero} planted the seed {place.in}. Every [day|morning], {hero.he} gave it water [and sang to it|and talked to it|].
{Hero.he} put the seed in [a pot|the ground|the soft earth] and gave it some water. Then {hero.he} [waited|sat down and waited].

The next day, {hero} looked. There was nothing. The day after, there was still nothing. 
{Hero} waited [one day|two days|all week]. But nothing [happened|came up|grew]. {Hero.he} was <sad>.
"[I want it to grow|It is so slow|Maybe it is a bad seed]," said {hero}. 
[{Small.a} sat down on the earth|A crow came to look at the earth|The rain came and went]. But there was no plant.

--
"[Be patient|Just wait|Give it time]," said {grown}. "[It is working under the ground|Seeds are slow, but they are strong|Good things take time]."
{Friend.intro} came by. "[What are you waiting for|What are you doing]?" {friend.he} asked. "I am waiting for my seed," said {hero}. "I will wait with you," said {friend}. 
"Should I dig it up?" asked {hero}. "No," said {grown}. "[It needs rest and water|Leave it in peace|Wait a little longer]."

So {hero} waited. {Hero.he} gave it water every day. [The sun was warm|The rain fell|Days went by].
{Hero} did not give up. {Hero.he} [pulled out the weeds|kept the birds away|gave it water and sun]. 
So {hero} [was patient|waited and waited]. [One week went by|Days went by|The moon grew round].

Then one morning, there was [a tiny green leaf|something green|a little green tip]! "[Look|It is growing|It is here|My seed woke up]!" shouted {hero}.
And then {hero.he} saw [a small green leaf|something green]. {Hero} [jumped for joy|danced around|called everyone].

It grew and grew. {Plant.looks}. It was {plant.gives}!
The little plant got [bigger every day|taller and taller]. In the end, it was {plant.gives}. {Plant.looks}.
By the end of summer, there was {plant.gives}. {Plant.looks}.

{Hero} was <happy>. {Hero.he} [showed it to everyone|gave a part of it to {friend2.intro}|thanked the sun and the rain].
"You did it," said {grown}. {Hero} was <happy>.
"[I grew it myself|It was worth the wait|Thank you, little seed]," said {hero} <loudly>.

?
<moral>
<moral>
<moral>
{Hero} kept the new seeds for the next spring.
