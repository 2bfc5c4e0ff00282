# Someone can't sleep.
cast: solo
lesson: [a happy thought helps you to sleep|the night is a good friend|being close to someone you love brings sweet dreams]

<home> <oneday2>, {hero} could not sleep. {Hero.he} turned left. {Hero.he} turned right. 
It was late. The moon was [round|bright|high in the sky]. Everyone was asleep. Only {hero.first} was awake.
<home> [But {hero.he} did not like to go to bed|But at night, {hero.he} could not sleep|But {hero.he} was never tired]. "I am not tired," {hero.he} said every night.

{Hero.he} counted [sheep|stars|ducks|clouds]. One, two, three. But it did not help.
{Hero.he} [heard a strange noise|saw a shadow on the wall|listened to the clock]. [Tick, tock|Knock, knock|Scratch, scratch]. {Hero.he} pulled the blanket up to {hero.his} nose.
{Hero.he} [drank some water|looked out of the window|closed {hero.his} eyes]. But sleep did not come.

{Hero} [got up and|climbed out of bed and|] went to {grown}. "I can't sleep," {hero.he} said. "[Come here|Oh dear]," said {grown} <softly>. +in
"{Grown.call}!" called {hero}. "I can't sleep!" {Grown} came and sat down [next to {hero.him}|on the bed]. +in
Then {wise.first} looked in through the window. "[Who is still awake|Why are you not asleep]?" {wise.he} asked. "I can't sleep," said {hero}. +out

"[I will tell you a story|I know a story]," said {grown}. [It was about {friend.intro} who loved {hobby4.ing}|It was about a star that could not sleep|It was a story about {friend.intro}]. @in +story
"[I will sing you a song|I know a song]," said {grown}. It was a [soft|sweet|slow] song about [the moon|a sheep|the sea|a little boat]. @in +song
{Grown} gave {hero.him} [warm milk|a soft pillow|{hero.his} {toy.bare}]. "[Think of something nice|Think of {place}|Listen to the night]," {grown.he} said. @in
{Wise} smiled. "[Listen to the wind|Count the stars with me|The trees sleep too]," {wise.he} said. "One, two, three." @out

--
{Hero} [listened|closed {hero.his} eyes]. {Hero.he} thought of {hobby2.ing}. {Hero.he} thought of {food.a}. [{Hero.he} began to smile|It was warm and soft].
{Hero} yawned. [{Hero.his} eyes got heavy|It was so warm in the bed|The voice was so soft]. 
"I am not tired at all," said {hero}. But then {hero.he} yawned. 

Soon {hero.he} was [fast asleep|asleep]. {Hero.he} dreamed of {hobby3.ing} {place2.in}.
And before the story was over, {hero} was asleep. @story
And before the song was over, {hero} was asleep. @song
[Slowly|Softly], sleep came. {Hero} dreamed that {hero.he} could [fly|talk to the moon|ride on a cloud].

"Good night, {hero.name}," said {grown} and [turned off the light|gave {hero.him} a kiss|closed the door]. @in
The moon [smiled|watched over {hero.him}|shone through the window]. Good night!
[In the morning|The next day], {hero} was [happy and full of energy|wide awake]. "I slept so well!" {hero.he} said.

?
<moral>
