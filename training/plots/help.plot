# Someone helps a small creature, and it helps back.
cast: solo
lesson: [even the smallest friend can be a big help|kindness always comes back|no one is too small to help|a good deed is never lost]

<here> [Suddenly|Then|There], {hero.he} heard a [tiny|small|soft|thin] voice. "[Help|Help me|Please help]!" it said.
<here> {Hero.he} saw {small.a} {spot}. It was [stuck|hurt|in trouble|too weak to move].
<here> {Hero.he} almost stepped on {small.a}. It was stuck {spot}.

It was {small.a}. It [was stuck in a spider web|had fallen down|could not get out|was caught under a stone]. 
"[I can't get out|My leg is stuck|I am stuck|I fell down]," cried the {small}. "[Please help me!|Can you help me?|Nobody hears me!]"
"[Don't be afraid|Hold still|Wait]," said {hero} to the {small}. "I will help you."

{Hero} was [very |]gentle. {Hero.he} [lifted|picked up|freed] the {small} with care and [put it in the sun|set it on a leaf|gave it some water].
{Hero} [moved the stone away|made a small bridge with a stick|lifted it up with a leaf]. The {small} was free!
So {hero} [bent down|knelt down|came closer] and helped the {small}. Soon it was [safe|free|better].
Some others laughed. "[It is just {small.a}!|Why do you care?]" they said. But {hero} helped the {small} anyway.

"[Thank you|Thank you so much|You saved me]," said the {small}. "One day, I will help you too." {Hero} [smiled|laughed]. "[But you are so small|You don't have to|That is very nice]," {hero.he} said.
"You are kind," said the {small}. "I will not forget you."
"Thank you, {hero.call}!" said the {small}. "[I will help you one day|Call me if you need help]."

--
[A few days later|The next day|Some time later|One week later], {hero} was in trouble. {Hero.he} was [lost in the forest|stuck in a deep hole|caught in some thorns]. "[Help!|Is anybody there?]" {hero.he} called. But nobody came.
[A few days later|The next day|Some time later], {hero} lost {thing.a}. {Hero.he} looked {spot2} and {spot3}. {Hero.he} could not find it.
[A few days later|The next day|Some time later], {hero} was [<sad>|sick in bed|all alone]. Nobody [was there|came to visit|knew what to do].

Then {hero.he} heard a small voice. It was the {small}! "[I am here|Now I will help you|Don't worry]," it said.
But the {small} [heard {hero.him}|saw it all|remembered]. "[Now it is my turn|I can help you|I know what to do]," it said.
[Just then|But then|Suddenly], the {small} came. "You helped me," it said. "Now I will help you."

The {small} called all its friends. [There were a hundred of them|They came from all sides|They were many]. Together, they [helped {hero}|made everything good again].
The {small} [was small but clever|was tiny but brave|knew just what to do]. Soon everything was [fine|good] again.
And it did. [Soon|Before long], {hero} [was smiling again|was safe and happy|felt much better].

"Thank you, little friend," said {hero}. "[You are small, but your heart is big|Now I know that you are strong|You kept your word]."
{Hero} was <happy>. "[Thank you|You saved me], little friend," {hero.he} said. 

?
<moral>
<moral>
<moral>
From that day on, {hero} and the {small} were friends.
They stayed friends for [ever|a very long time].
